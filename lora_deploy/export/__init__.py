"""From a RUN to a BUNDLE: merge, compile, prove, ship."""
