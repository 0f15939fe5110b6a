"""`python -m mobilenetv2` is the command `mobilenetv2`."""

from mobilenetv2.cli import main

if __name__ == "__main__":
    main()
