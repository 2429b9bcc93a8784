"""`python -m wssl_fast.cli`."""

from wssl_fast.cli import main

main()
