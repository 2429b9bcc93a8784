"""Tables of docs/split_products.md from the rows of split_products.py."""

import math

Row = dict[str, object]


def order(value: object, sign: int) -> float:
    """A key for max (sign 1) or min (-1) in which a NaN is the worst."""
    number = float(value)  # type: ignore[arg-type]
    return math.inf if math.isnan(number) else sign * number


def tables(rows: list[Row]) -> str:
    """Markdown of the rows that compare schemes."""
    head = (
        "| scheme | formulation | value beyond unseen | gradient, 1e-2 | gradient, 1e-3 "
        "| cosine, 1e-2 | cosine, 1e-3 | finite | largest Q |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"
    )
    out = []
    for name in dict.fromkeys(str(r["table"]) for r in rows):
        mine = [r for r in rows if r["table"] == name and "scheme" in r]
        if not mine:
            continue
        out += [f"\n**{name}**\n", head]
        for r in mine:
            errors = " | ".join(f"{r[key]:.1e}" for key in ("excess", "gradient", "gradient_3"))
            cosines = " | ".join(f"{r[key]:.4f}" for key in ("cosine", "cosine_3"))
            finite = "yes" if r["finite"] else "no"
            out.append(
                f"| {r['scheme']} | {r['formulation']} | {errors} | {cosines} "
                f"| {finite} | {r['max_Q']:.0f} |"
            )
    mine = [r for r in rows if r["table"] == "noise"]
    kinds = list(dict.fromkeys(f"{r['gram']} {r['add']}".strip() for r in mine))
    places = list(dict.fromkeys(str(r["batch"]) for r in mine))
    cell = {(f"{r['gram']} {r['add']}".strip(), str(r["batch"])): r["units"] for r in mine}
    out += ["\n**noise of C, units of eps |C|_F**\n", "| Gram | " + " | ".join(places) + " |"]
    out += ["| --- |" + " ---: |" * len(places)]
    out += [
        f"| {kind} | " + " | ".join(f"{cell[kind, p]:.2f}" for p in places) + " |" for kind in kinds
    ]
    out += ["\n**negative eigenvalues, -c eps |A|_F, worst over k = 64, 256 and both bases**\n"]
    out += ["| c | shift | weight, saturated | finite, saturated | finite, not | largest P, T, Q |"]
    out += ["| ---: | ---: | ---: | --- | --- | --- |"]
    mine = [r for r in rows if r["table"] == "indefinite"]
    for below, shift in dict.fromkeys((r["below"], r["shift"]) for r in mine):
        some = [r for r in mine if (r["below"], r["shift"]) == (below, shift)]
        sure, bare = ([r for r in some if r["saturate"] == flag] for flag in (True, False))
        weight = max(order(r["weight"], 1) for r in sure)
        most = ", ".join(f"{max(order(r[f'max_{x}'], 1) for r in sure):.0e}" for x in "PTQ")
        yes = ["yes" if all(r["finite"] for r in part) else "no" for part in (sure, bare)]
        out.append(f"| {below} | {shift} | {weight:.1e} | {yes[0]} | {yes[1]} | {most} |")
    return "\n".join(out) + "\n"
