"""The metrics page of a server with a GPU that is busy most of the time, without a GPU.

Names, labels and types are those of server/metrics_device.cc and, for the probe states that only
a GPU keeps, of server/metrics.cc; the tests compare.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USES = ("weights", "activations", "probe_states", "kv_cache", "graphs")
# What a second adds, by metric and by kind of step. Far from a second of steps: a page that is late
# makes the rate of the seconds before it too high.
RATES = {
    "gpu_steps_total": {"graph": 100.0, "eager": 5.0},
    "gpu_step_seconds_total": {"graph": 0.7, "eager": 0.05},
    "gpu_step_bytes_total": {"graph": 3e12, "eager": 1e11},
    "gpu_step_flops_total": {"graph": 2e12, "eager": 3e13},
}
PEAKS = {"gpu_peak_bytes_per_second": 4.8e12, "gpu_peak_flops_per_second": 9.9e14}
START_SECONDS = {"load": 1.0, "tune": 2.5, "capture": 0.5}
PROBE_STATE_BYTES = {"probe_state_bytes": 2e9, "probe_state_bytes_used": 5e8}


def page(seconds: float) -> str:
    lines = ["# TYPE parallax:gpu_memory_bytes gauge"]
    lines += [f'parallax:gpu_memory_bytes{{model_name="m",use="{use}"}} 1e9' for use in USES]
    for name, kinds in RATES.items():
        lines.append(f"# TYPE parallax:{name} counter")
        lines += [f'parallax:{name}{{model_name="m",kind="{kind}"}} {rate * seconds}'
                  for kind, rate in kinds.items()]
    lines.append("# TYPE parallax:gpu_start_seconds gauge")
    lines += [f'parallax:gpu_start_seconds{{model_name="m",phase="{phase}"}} {took}'
              for phase, took in START_SECONDS.items()]
    for name, value in {**PROBE_STATE_BYTES, **PEAKS}.items():
        lines.append(f"# TYPE parallax:{name} gauge")
        lines.append(f'parallax:{name}{{model_name="m"}} {value}')
    return "\n".join(lines) + "\n"


class GpuMetrics:
    """Serves the page at `address` from `with` to the end of the block."""

    def __enter__(self) -> GpuMetrics:
        began = time.monotonic()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page(time.monotonic() - began).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
