"""Every error that a user can cause, as one tree; anything else is a bug of ours.

LoraDeployError                exit code 2: one clear line, no traceback
├── SettingsError              a settings file or ``--set`` that can't be obeyed
├── DataError                  a data folder or manifest that can't be used
├── ClipError                  one video file that gives no clip (becomes an error row)
├── LinkError                  a link that gives no video
├── ModelError                 a base model that can't be opened or is not what it seems
│   ├── TargetError            a target word that names no layer
│   ├── LivenessError          an adapter that is not part of what the model computes
│   └── CheckpointError        weights that don't fit the model
│       └── AdapterError       an adapter that is torn, changed, or of another model
├── ArtifactError              a RUN or BUNDLE folder that is missing, torn or too new
├── ResumeError                a training that can't go on from where it stopped
├── TrainingError              a training that can't give a model
├── BatchError                 a classification of many clips that can't begin, go on or be joined
├── BackendError               a runtime that can't do what was asked
│   ├── CardError              something that was to run on an NVIDIA card, and doesn't
│   ├── DecoderError           a decoder that gives wrong frames without a word
│   └── EngineError            a TensorRT engine that can't be built or opened
├── HubError                   an upload that a hub does not take
├── DemoError                  a web page that can't be served as it was asked for
├── ServeError                 an HTTP service that can't be started as it was asked for
├── MissingPackageError        an optional package that is not installed
└── CheckFailed                exit code 1: finished, but a proof did not hold

The classes below these have names that a person can look up: the docstring is the cause, ``remedy``
what to do. ``docs/errors.md`` is written from them by ``scripts/docs``.
"""

from lora_deploy.errors.root import *
from lora_deploy.errors.settings import *
from lora_deploy.errors.data import *
from lora_deploy.errors.clips import *
from lora_deploy.errors.links import *
from lora_deploy.errors.models import *
from lora_deploy.errors.adapters import *
from lora_deploy.errors.folders import *
from lora_deploy.errors.training import *
from lora_deploy.errors.batches import *
from lora_deploy.errors.backends import *
from lora_deploy.errors.cards import *
from lora_deploy.errors.engines import *
from lora_deploy.errors.hub import *
from lora_deploy.errors.demo import *
from lora_deploy.errors.serve import *
from lora_deploy.errors.proofs import *
