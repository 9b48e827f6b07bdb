"""Numbers about one run of a Gemma: functions of a `Trace`, and experiments that take a `Gemma`. Nothing is drawn here.

The experiments use the model by `forward`, `steps`, `gradients` and `intervene` alone; `trust` holds what comes of it
against plain transformers.
"""
