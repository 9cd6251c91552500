-- How many keys are there of each status, and how old are they?
--
-- status       active, superseded, suspended, expired or revoked
-- kind         publishable or secret
-- environment  live or test
-- how_many     how many keys
-- workspaces   in how many workspaces
-- oldest       when the oldest key was made
-- newest       when the newest key was made
-- median_days  the median age in days: half of the keys are older
select
  k.status,
  k.kind,
  k.environment,
  count(*) as how_many,
  count(distinct k.workspace_id) as workspaces,
  min(k.created_at)::date as oldest,
  max(k.created_at)::date as newest,
  round(
    (percentile_cont(0.5) within group (
      order by extract(epoch from pg_catalog.now() - k.created_at)
    ) / 86400)::numeric, 1
  ) as median_days
from keylatch.keys as k
group by k.status, k.kind, k.environment
order by k.status, k.kind, k.environment;
