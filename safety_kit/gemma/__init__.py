"""The Gemma core: the only room that calls the model."""

from safety_kit.gemma.chat import Prompt, render
from safety_kit.gemma.decoding import Step
from safety_kit.gemma.experiments import Edit, Gradients
from safety_kit.gemma.model import Gemma
from safety_kit.gemma.readout import Readout
from safety_kit.gemma.sampling import Sampling
from safety_kit.gemma.steps import Generation, Prefill
from safety_kit.gemma.sublayers import AttentionInputs, Write
from safety_kit.gemma.tokens import Tokens
from safety_kit.gemma.trace import Capture, Trace, TraceView

__all__ = [
    "AttentionInputs",
    "Capture",
    "Edit",
    "Gemma",
    "Generation",
    "Gradients",
    "Prefill",
    "Prompt",
    "Readout",
    "Sampling",
    "Step",
    "Tokens",
    "Trace",
    "TraceView",
    "Write",
    "render",
]
