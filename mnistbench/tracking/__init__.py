"""The mirror of the records in MLflow. Only `server.py` imports mlflow, and only when a server is contacted."""

from mnistbench.tracking.address import checked, default_uri, shown, ui_command
from mnistbench.tracking.mirror import Mirror, SyncResult, sync
from mnistbench.tracking.rebuild import Rebuilt, download_weights, rebuild

__all__ = [
    "Mirror",
    "Rebuilt",
    "SyncResult",
    "checked",
    "default_uri",
    "download_weights",
    "rebuild",
    "shown",
    "sync",
    "ui_command",
]
