"""A model in a process of its own: the program that `agent.runtime.hosting` starts, and that nobody trusts.

This package stands alone, on purpose: it is run by any Python from 3.8 on that has numpy and the vendor's runtime
(onnxruntime, ai_edge_litert or tflite_runtime), and imports nothing of the agent. The agent imports only `wire`, the
words of both sides; docs/runner-host.md describes every message byte by byte.
"""
