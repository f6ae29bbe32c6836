"""OpenVINO's core: one, kept as long as the process lives.

The CPU plugin gives the thread that loads it a stack for signal handlers, and unmaps it with the
last core. Where that happens in another thread, the first one keeps a stack that is gone, and the
next signal that it handles (a Ctrl-C) kills the process.
"""

from lora_deploy.runtime.unreported import unreported

with unreported():
    import openvino

CORE = openvino.Core()
