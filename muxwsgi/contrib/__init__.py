"""Commands and entry points of frameworks that start muxwsgi. Each replaces its process by `muxwsgi run`, because gevent has to patch the
standard library before an application is imported, and these commands have imported it already. docs/frameworks.md explains them."""
