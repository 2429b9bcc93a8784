"""The methods whose step is timed, by the names that the tables show."""

from benchmarks.ssl.methods import BYOL, BarlowTwins, Method, MoCoV2, VICReg

METHODS: dict[str, Method] = {
    method.name: method for method in (BarlowTwins(), VICReg(), BYOL(), MoCoV2())
}
