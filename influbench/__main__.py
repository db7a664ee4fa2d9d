"""``python -m influbench``."""

from influbench.cli.main import main

if __name__ == "__main__":
    main()
