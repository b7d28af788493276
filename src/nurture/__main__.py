"""`python -m nurture`, also what torchrun and our own launcher start."""

from .cli import main

if __name__ == "__main__":
    main()
