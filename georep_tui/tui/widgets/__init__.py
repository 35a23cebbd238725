"""Widgets of the console: tables, blocks of lines, logs, the bars above and below."""
