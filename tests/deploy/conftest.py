"""The fixtures of the end-to-end tests, on top of which these stand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from certificates import Certificates, certificates  # noqa: E402,F401
