"""What happens when in a long video: windows that slide over it, smoothed into segments."""

from lora_deploy.classify.timeline.look import Timeline, timeline
from lora_deploy.classify.timeline.segments import Segment, Window, segments
from lora_deploy.classify.timeline.windows import TimelineOptions, window_stretches

__all__ = [
    "Segment",
    "Timeline",
    "TimelineOptions",
    "Window",
    "segments",
    "timeline",
    "window_stretches",
]
