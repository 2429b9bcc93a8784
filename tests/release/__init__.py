"""What a stranger installs: archives, installations, versions, licences, files one cannot trust.

The quick part is in the tests of this folder; `python -m tests.release` does the rest.
"""
