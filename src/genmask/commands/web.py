"""genmask web"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Literal

from genmask.commands.inference import Inference, load
from genmask.web.server import LOCAL, Limits, require_gradio, serve


@dataclass(frozen=True, kw_only=True)
class Web(Limits):
    """Serve a page: drop a picture, type a sentence, see the mask. A second tab draws pictures.

    genmask web
    genmask web --model runs/mine/model --port 8000

    Only this machine can reach it, unless --host says otherwise. Ctrl-C ends it.
    """

    model: str = "tiny"
    """A model folder, a bundled model ("tiny") or a hub id (organisation/name): only that needs a network."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets every machine in the network use the page: it has no password."""
    port: int = 7860
    """Where it is taken, the next free one; 0 is any free one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto is bfloat16 on CUDA and on processors that multiply in it, else float32."""

    def run(self) -> None:
        require_gradio()
        pipeline = load(Inference(model=self.model, device=self.device, dtype=self.dtype))
        pipeline.set_progress_bar_config(disable=True)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        with serve(pipeline, model=self.model, host=self.host, port=self.port, limits=self) as address:
            reach = "" if self.host in LOCAL else "whoever reaches this address may use the page; "
            print(f"{address} ({reach}Ctrl-C ends it)", flush=True)
            ended.wait()
