"""The OpenAI-compatible gateway: guarded generation in front of any model. `safety-kit serve` runs it."""
