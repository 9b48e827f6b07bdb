"""What the kit's own checks can find, as plain tables: a policy is validated against them without loading a check."""

from __future__ import annotations

from typing import Final

PII: Final[dict[str, tuple[str | None, str, str]]] = {
    # category after `pii.`: (country, or None for everywhere; presidio's module; class)
    "email": (None, "email_recognizer", "EmailRecognizer"),
    "phone": (None, "phone_recognizer", "PhoneRecognizer"),
    "credit_card": (None, "credit_card_recognizer", "CreditCardRecognizer"),
    "iban": (None, "iban_recognizer", "IbanRecognizer"),
    "ip": (None, "ip_recognizer", "IpRecognizer"),
    "mac": (None, "mac_recognizer", "MacAddressRecognizer"),
    "crypto": (None, "crypto_recognizer", "CryptoRecognizer"),
    "au_medicare": ("au", "au_medicare_recognizer", "AuMedicareRecognizer"),
    "au_tfn": ("au", "au_tfn_recognizer", "AuTfnRecognizer"),
    "ca_sin": ("ca", "ca_sin_recognizer", "CaSinRecognizer"),
    "fi_personal_identity_code": ("fi", "fi_personal_identity_code_recognizer", "FiPersonalIdentityCodeRecognizer"),
    "de_fuehrerschein": ("de", "de_fuehrerschein_recognizer", "DeFuehrerscheinRecognizer"),
    "de_health_insurance": ("de", "de_health_insurance_recognizer", "DeHealthInsuranceRecognizer"),
    "de_id_card": ("de", "de_id_card_recognizer", "DeIdCardRecognizer"),
    "de_kfz": ("de", "de_kfz_recognizer", "DeKfzRecognizer"),
    "de_passport": ("de", "de_passport_recognizer", "DePassportRecognizer"),
    "de_social_security": ("de", "de_social_security_recognizer", "DeSocialSecurityRecognizer"),
    "de_tax_id": ("de", "de_tax_id_recognizer", "DeTaxIdRecognizer"),
    "de_tax_number": ("de", "de_tax_number_recognizer", "DeTaxNumberRecognizer"),
    "in_aadhaar": ("in", "in_aadhaar_recognizer", "InAadhaarRecognizer"),
    "in_pan": ("in", "in_pan_recognizer", "InPanRecognizer"),
    "in_passport": ("in", "in_passport_recognizer", "InPassportRecognizer"),
    "in_vehicle_registration": ("in", "in_vehicle_registration_recognizer", "InVehicleRegistrationRecognizer"),
    "in_voter": ("in", "in_voter_recognizer", "InVoterRecognizer"),
    "it_driver_license": ("it", "it_driver_license_recognizer", "ItDriverLicenseRecognizer"),
    "it_fiscal_code": ("it", "it_fiscal_code_recognizer", "ItFiscalCodeRecognizer"),
    "it_identity_card": ("it", "it_identity_card_recognizer", "ItIdentityCardRecognizer"),
    "it_passport": ("it", "it_passport_recognizer", "ItPassportRecognizer"),
    "kr_driver_license": ("kr", "kr_driver_license_recognizer", "KrDriverLicenseRecognizer"),
    "kr_frn": ("kr", "kr_frn_recognizer", "KrFrnRecognizer"),
    "kr_passport": ("kr", "kr_passport_recognizer", "KrPassportRecognizer"),
    "kr_rrn": ("kr", "kr_rrn_recognizer", "KrRrnRecognizer"),
    "ng_nin": ("ng", "ng_nin_recognizer", "NgNinRecognizer"),
    "ng_vehicle_registration": ("ng", "ng_vehicle_registration_recognizer", "NgVehicleRegistrationRecognizer"),
    "ph_passport": ("ph", "ph_passport_recognizer", "PhPassportRecognizer"),
    "ph_tin": ("ph", "ph_tin_recognizer", "PhTinRecognizer"),
    "ph_umid": ("ph", "ph_umid_recognizer", "PhUmidRecognizer"),
    "pl_pesel": ("pl", "pl_pesel_recognizer", "PlPeselRecognizer"),
    "sg_nric": ("sg", "sg_fin_recognizer", "SgFinRecognizer"),
    "za_driver_license": ("za", "za_driver_license_recognizer", "ZaDriverLicenseRecognizer"),
    "za_id_number": ("za", "za_id_number_recognizer", "ZaIdNumberRecognizer"),
    "za_income_tax_number": ("za", "za_income_tax_number_recognizer", "ZaIncomeTaxNumberRecognizer"),
    "za_license_plate": ("za", "za_license_plate_recognizer", "ZaLicensePlateRecognizer"),
    "za_passport": ("za", "za_passport_recognizer", "ZaPassportRecognizer"),
    "za_traffic_register_number": ("za", "za_traffic_register_number_recognizer", "ZaTrafficRegisterNumberRecognizer"),
    "es_nie": ("es", "es_nie_recognizer", "EsNieRecognizer"),
    "es_nif": ("es", "es_nif_recognizer", "EsNifRecognizer"),
    "es_passport": ("es", "es_passport_recognizer", "EsPassportRecognizer"),
    "se_personnummer": ("se", "se_personnummer_recognizer", "SePersonnummerRecognizer"),
    "th_tnin": ("th", "th_tnin_recognizer", "ThTninRecognizer"),
    "tr_license_plate": ("tr", "tr_license_plate_recognizer", "TrLicensePlateRecognizer"),
    "tr_national_id": ("tr", "tr_national_id_recognizer", "TrNationalIdRecognizer"),
    "uk_driving_licence": ("uk", "uk_driving_licence_recognizer", "UkDrivingLicenceRecognizer"),
    "uk_nhs": ("uk", "uk_nhs_recognizer", "NhsRecognizer"),
    "uk_nino": ("uk", "uk_nino_recognizer", "UkNinoRecognizer"),
    "uk_passport": ("uk", "uk_passport_recognizer", "UkPassportRecognizer"),
    "uk_vehicle_registration": ("uk", "uk_vehicle_registration_recognizer", "UkVehicleRegistrationRecognizer"),
    "us_bank_routing": ("us", "aba_routing_recognizer", "AbaRoutingRecognizer"),
    "us_medical_license": ("us", "medical_license_recognizer", "MedicalLicenseRecognizer"),
    "us_bank_number": ("us", "us_bank_recognizer", "UsBankRecognizer"),
    "us_driver_license": ("us", "us_driver_license_recognizer", "UsLicenseRecognizer"),
    "us_health_insurance_member_id": (
        "us",
        "us_health_insurance_member_id_recognizer",
        "UsHealthInsuranceMemberIdRecognizer",
    ),
    "us_itin": ("us", "us_itin_recognizer", "UsItinRecognizer"),
    "us_mbi": ("us", "us_mbi_recognizer", "UsMbiRecognizer"),
    "us_passport": ("us", "us_passport_recognizer", "UsPassportRecognizer"),
    "us_ssn": ("us", "us_ssn_recognizer", "UsSsnRecognizer"),
}
"""Companies' numbers, postcodes, dates, URLs and UUIDs are left out: they identify no one by themselves."""

COUNTRIES: Final[dict[str, tuple[str, str]]] = {
    # country: (folder of its presidio recognizers; region by which phone numbers are read)
    "au": ("australia", "AU"),
    "br": ("brazil", "BR"),
    "ca": ("canada", "CA"),
    "de": ("germany", "DE"),
    "es": ("spain", "ES"),
    "fi": ("finland", "FI"),
    "fr": ("france", "FR"),
    "il": ("israel", "IL"),
    "in": ("india", "IN"),
    "it": ("italy", "IT"),
    "kr": ("korea", "KR"),
    "ng": ("nigeria", "NG"),
    "ph": ("philippines", "PH"),
    "pl": ("poland", "PL"),
    "se": ("sweden", "SE"),
    "sg": ("singapore", "SG"),
    "th": ("thai", "TH"),
    "tr": ("turkey", "TR"),
    "uk": ("uk", "GB"),
    "us": ("us", "US"),
    "za": ("south_africa", "ZA"),
}
"""Countries that a policy may name."""

SECRETS: Final[dict[str, tuple[str, str]]] = {
    # category after `secrets.`: (module of detect_secrets.plugins, class)
    "artifactory_token": ("artifactory", "ArtifactoryDetector"),
    "aws_key": ("aws", "AWSKeyDetector"),
    "azure_storage_key": ("azure_storage_key", "AzureStorageKeyDetector"),
    "basic_auth": ("basic_auth", "BasicAuthDetector"),
    "cloudant_key": ("cloudant", "CloudantDetector"),
    "discord_token": ("discord", "DiscordBotTokenDetector"),
    "github_token": ("github_token", "GitHubTokenDetector"),
    "ibm_cloud_key": ("ibm_cloud_iam", "IbmCloudIamDetector"),
    "ibm_cos_key": ("ibm_cos_hmac", "IbmCosHmacDetector"),
    "jwt": ("jwt", "JwtTokenDetector"),
    "mailchimp_key": ("mailchimp", "MailchimpDetector"),
    "npm_token": ("npm", "NpmDetector"),
    "sendgrid_key": ("sendgrid", "SendGridDetector"),
    "slack_token": ("slack", "SlackDetector"),
    "softlayer_key": ("softlayer", "SoftlayerDetector"),
    "square_key": ("square_oauth", "SquareOAuthDetector"),
    "stripe_key": ("stripe", "StripeDetector"),
    "twilio_key": ("twilio", "TwilioKeyDetector"),
}
"""The entropy and keyword plugins are left out: they fire on ordinary code and prose."""

OWN_SECRETS: Final = (
    "private_key",
    "openai_key",
    "anthropic_key",
    "google_api_key",
    "hugging_face_token",
    "gitlab_token",
)
"""Found by patterns of `checks/secrets.py`, because no plugin finds them, or none whole."""

# fmt: off
LANGUAGES: Final = frozenset({
    "ace", "af", "am", "an", "ar", "ary", "arz", "as", "az", "ba", "bcl", "be", "bg", "bn", "br", "bs", "ca", "crh",
    "cs", "cy", "da", "de", "dz", "el", "en", "eo", "es", "et", "eu", "ext", "fa", "fi", "fo", "fr", "fuv", "fy",
    "ga", "gcf", "gcr", "gd", "gl", "gom", "grc", "gu", "gug", "guw", "ha", "hbo", "he", "hi", "hr", "ht", "hu",
    "hy", "id", "ig", "is", "it", "ja", "jv", "ka", "kab", "kik", "kk", "km", "kn", "ko", "ku", "ky", "la", "lb",
    "lg", "lij", "ln", "lo", "lt", "ltg", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "nso", "oc", "om", "or", "pa", "pcm", "pl", "ps", "pt", "qu", "ro", "ru", "rw", "sa", "sdh", "se", "si",
    "sk", "sl", "sn", "so", "sq", "sr", "st", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "ug",
    "uk", "ur", "uz", "uzs", "vec", "vi", "vo", "wa", "wuu", "xh", "yo", "yue", "zh", "zu",
})
# fmt: on
"""ISO 639 codes of the languages that the `language` check tells apart."""

INVISIBLE: Final = ("zero_width", "tag", "bidi", "variation_selector", "private_use")
"""Category after `invisible.`."""

URLS: Final = ("denied", "not_allowed", "lookalike", "credentials", "raw_ip", "scheme", "exfiltration")
"""Category after `urls.`."""


def pii_categories(countries: tuple[str, ...]) -> frozenset[str]:
    """Categories that the `pii` check gives for these countries."""
    return frozenset(f"pii.{name}" for name, (country, _, _) in PII.items() if country is None or country in countries)


def secret_categories() -> frozenset[str]:
    """Categories that the `secrets` check gives."""
    return frozenset(f"secrets.{name}" for name in (*SECRETS, *OWN_SECRETS))


def invisible_categories() -> frozenset[str]:
    """Categories that the `invisible` check gives."""
    return frozenset(f"invisible.{name}" for name in INVISIBLE)


def url_categories() -> frozenset[str]:
    """Categories that the `urls` check gives."""
    return frozenset(f"urls.{name}" for name in URLS)


def language_categories() -> frozenset[str]:
    """Categories that the `language` check gives."""
    return frozenset({"language.not_allowed", "language.unknown"})
