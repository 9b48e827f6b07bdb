"""`python -m safety_kit` is the command `safety-kit`."""

from safety_kit.cli import main

if __name__ == "__main__":
    main()
