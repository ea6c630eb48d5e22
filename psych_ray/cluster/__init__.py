"""The only room that knows Ray: session, replicas, and what their deaths mean."""
