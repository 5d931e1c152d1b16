"""Conversations: objects that are fed bytes and answer with steps. Pure: no socket, no clock, no await."""
