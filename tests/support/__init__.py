"""What tests of several rooms share: polling, a gateway, a web server that records, a project's folder."""
