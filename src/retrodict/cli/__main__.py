"""`python -m retrodict.cli` is the command `retrodict`."""

from retrodict.cli import main


if __name__ == "__main__":
    main()
