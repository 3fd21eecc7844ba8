"""One self-contained HTML page: tables, and the pictures as data URIs."""
from __future__ import annotations

import base64
import html
import io
from typing import Optional, Sequence

from matplotlib.figure import Figure

from results import LATENCIES, Run

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #999; }
.better { color: #00663f; } .worse { color: #a33a00; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
"""


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def run_table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        requests = run.document["requests"]
        errors = requests["failed"] + requests["refused"] + requests["unfinished"]
        rows.append([
            html.escape(f"{run.source}: {run.name}"),
            f"{requests['completed']:,}", f"{errors:,}",
            f"{run.document['throughput']['requests_per_second']:,.2f}",
            f"{run.output_rate:,.0f}",
            "-" if run.goodput_share is None else f"{run.goodput_share:.1%}",
            *(f"{run.latency_ms(name, statistic):,.2f}"
              for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p99")),
        ])
    return _table(["run", "completed", "errors", "req/s", "output tok/s", "within SLO", "TTFT p50",
                   "p99", "TPOT p50", "p99", "E2E p50", "p99"], rows)


def _both(pair: dict[str, float], digits: int) -> str:
    """The client's figure, and the server's unless it is the same."""
    client, server = pair["client"], pair["server"]
    if client == server:
        return f"{client:,.{digits}f} equal"
    return f"{client:,.{digits}f} / {server:,.{digits}f} ({server - client:+,.{digits}f})"


def both_sides_table(runs: Sequence[Run]) -> Optional[str]:
    """What client and server counted, of the runs that scraped the server."""
    rows = [[html.escape(f"{run.source}: {run.name}"),
             *(_both(run.both_sides[quantity], 0)
               for quantity in ("requests", "prompt_tokens", "output_tokens")),
             _both(run.both_sides["mean_ttft_ms"], 3)]
            for run in runs if run.both_sides is not None]
    if not rows:
        return None
    return _table(["run", "requests", "prompt tokens", "output tokens", "mean TTFT, ms"], rows)


def _ratio(after: float, before: float, higher_is_better: bool) -> str:
    if before == 0:
        return "-"
    ratio = after / before
    if abs(ratio - 1) < 0.02:
        return f"{ratio:.2f}x"
    better = (ratio > 1) == higher_is_better
    return f'<span class="{"better" if better else "worse"}">{ratio:.2f}x</span>'


def comparison_table(before: Sequence[Run], after: Sequence[Run]) -> Optional[str]:
    """Ratios after/before of the runs that both files hold."""
    known = {run.key: run for run in before}
    pairs = [(known[run.key], run) for run in after if run.key in known]
    if not pairs:
        return None
    rows = [[
        html.escape(new.name), _ratio(new.output_rate, old.output_rate, True),
        *(_ratio(new.latency_ms(name, statistic), old.latency_ms(name, statistic), False)
          for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p99")),
    ] for old, new in pairs]
    return _table(["run", "output tok/s", "TTFT p50", "p99", "TPOT p50", "p99", "E2E p50", "p99"],
                  rows)


def model_line(run: Run) -> str:
    model = run.document["model"]
    facts = [f"{model['name']}, {model['num_parameters'] / 1e6:,.1f} M parameters",
             model["device"], f"server {model['server_version']}",
             f"started {run.document['started_at']}",
             *(f"{name}: {value}" for name, value in run.document["annotations"].items())]
    return html.escape("; ".join(facts))


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<h2>{html.escape(head)}</h2>{content}" for head, content in sections)
    note = ("Latencies are milliseconds from the intended start of a request. "
            + "; ".join(f"{key.upper()}: {text}" for key, text in LATENCIES.items())
            + ".")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}'
            f"</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}"
            f"<p><small>{html.escape(note)}</small></p></html>\n")


def picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption><small>{html.escape(caption)}</small></figcaption></figure>")
