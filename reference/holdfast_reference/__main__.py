"""`python -m holdfast_reference` is `holdfast-server`."""

from holdfast_reference.cli import main

if __name__ == "__main__":
    main()
