"""``python -m lora_deploy`` is ``lora-deploy``."""

from lora_deploy.cli import main

main()
