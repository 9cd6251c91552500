-- What else the role `postgres` has on a hosted project, although keylatch does not need it.

-- It may disable triggers for a session, as a replication worker does. keylatch must be safe
-- against that.
grant set on parameter session_replication_role to postgres;  -- noqa: PRS
