-- No look-up: the cost of a round trip alone.
\set n random(1, :keys)
select 'wk_bench_' || :n;
