"""Settings of gunicorn that not every version has a flag for, and one version of TLS alone."""

import os
import ssl

control_socket_disable = True


def ssl_context(config, default_ssl_context_factory):
    context = default_ssl_context_factory()
    version = ssl.TLSVersion.TLSv1_2 if os.environ["TLS"] == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = version
    return context
