"""The console: the only package that imports textual. `app.run_console` shows a source of sessions in a terminal."""
