"""Studies: scripts that decided something, with the rows they decided it on."""
