"""Replicas on Ray: session, shape of the cluster, gangs, driver. The only package that imports Ray."""
