-- No look-up at all: what a round trip costs that only says a word.
\set n random(1, :keys)
select 'wk_bench_' || :n;
