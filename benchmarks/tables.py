"""The tables of the records, in Markdown."""

from benchmarks import followers, times

CELL = ("workload", "steps a probe", "rate / edge", "k", "probes")


def _aligned(names: list[str], words: int = 1) -> list[str]:
    marks = [":--"] * words + ["--:"] * (len(names) - words)
    return [f"| {' | '.join(names)} |", f"| {' | '.join(marks)} |"]


def following(results: dict) -> list[str]:
    lines = [
        "Leading eigenpairs followed along gradient descent from the edge of stability: products a",
        f"probe, the first apart, to a residual of {followers.TOLERANCE:g}, relative. In brackets,",
        "values off by more than twice that at the probes compared (every fifth).",
        "",
        *_aligned([*CELL, *followers.FOLLOWERS, "largest error"]),
    ]
    for name, cells in results.items():
        for one in cells:
            found = {(m["method"], m["k"]): m for m in one["methods"]}
            for k in followers.KS:
                rows = [found.get((method, k)) for method in followers.FOLLOWERS]
                shown = [f"{r['mean_products']:.1f} ({r['off']})" if r else "" for r in rows]
                error = max(row["error"] for row in rows if row)
                lines.append(
                    f"| {name} | {one['every']} | {one['factor']:g} | {k} | {one['probes']} | "
                    f"{' | '.join(shown)} | {error:.0e} |"
                )
    return lines


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def counts(results: dict) -> list[str]:
    lines = [
        "Products of a search from nothing at the edge of stability, mean over starts, until",
        "all residuals are at most 1e-3 of the largest eigenvalue, and until all values are within",
        "1e-4 of it. ARPACK, LOBPCG and the tuned rows get the cheapest setting for each start.",
        "",
        *_aligned(["workload", "k", "method", "residual", "values", "doubt", "starts"], 3),
    ]
    for name, rows in results.items():
        for row in rows:
            extra = f" + {row['extra']:.1f}" if "extra" in row else ""
            doubt, starts = _number(row.get("doubt"), ".0e"), row["starts"]
            lines.append(
                f"| {name} | {row['k']} | {row['method']} | {_number(row['residual'])}{extra} | "
                f"{_number(row.get('values'))} | {doubt} | {starts} |"
            )
    return lines


def cold(results: dict) -> list[str]:
    lines = [
        f"Five largest eigenpairs from nothing: eigenvalues to {times.VALUE_ERROR:g}, relative,",
        f"subspace to {times.ANGLE:g} rad. The time is over that of flatminima in the same round.",
        "",
        *_aligned(["workload", "method", "setting", "products", "time", "accurate rounds"], 2),
    ]
    for name, points in results.items():
        for label, data in points.items():
            for method, row in data["methods"].items():
                setting = "none was enough" if row["setting"] is None else f"{row['setting']:g}"
                products = sum(row["products"]) / len(row["products"])
                lines.append(
                    f"| {name}, {label} | {method} | {setting} | {products:.1f} | "
                    f"{row['ratio']:.2f} | {row['accurate_rounds']}/{len(row['ratios'])} |"
                )
    return lines


def product(results: dict) -> list[str]:
    lines = _aligned(["workload", "product / gradient: time", "FLOPs"])
    for name, row in results.items():
        lines.append(f"| {name} | {row['ratio']:.2f} | {row['flop_ratio']:.2f} |")
    return lines


def memory(results: dict) -> list[str]:
    lines = [
        "Peak of the resident memory above what was there, in vectors of the parameters: k = 5.",
        "",
        *_aligned(["method", "products", "peak", "kept between probes"]),
    ]
    for row in results["mlp"]:
        lines.append(
            f"| {row['method']} | {row['products']} | {row['peak']:.0f} | {row['kept']:.0f} |"
        )
    return lines
