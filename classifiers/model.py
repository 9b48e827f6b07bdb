"""The model of an estimator: given, or loaded when it is first needed."""

from __future__ import annotations

from safety_kit.gemma import Gemma


class NeedsGemma:
    """An estimator with the parameter `gemma`, which stays what it was set to."""

    gemma: Gemma | str

    @property
    def model_(self) -> Gemma:
        """The model, loaded once where it was named."""
        if isinstance(self.gemma, Gemma):
            return self.gemma
        name, loaded = getattr(self, "_loaded", (None, None))
        if loaded is None or name != self.gemma:
            loaded = Gemma.load(self.gemma)
            self._loaded = self.gemma, loaded
        return loaded
