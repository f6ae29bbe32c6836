"""The commands of ``lora-deploy``: a file for learning, shipping, using and looking."""
