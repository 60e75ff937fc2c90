"""Limpet: an on-device inference agent for IoT."""

__version__ = "0.1.0"
