"""The router behind HTTP: thin routes over the library."""
