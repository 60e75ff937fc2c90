"""The running agent: everything below put together from its configuration, and followed until it is told to leave."""
