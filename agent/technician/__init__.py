"""The technician's side of a request: signing it, sending it to many devices, hearing what becomes of it."""
