-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v TEXT);
CREATE TEMP TABLE log(line TEXT);
BEGIN;
INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
  SELECT i, (i * 7919) % 10007, hex(i * 31) FROM n;
COMMIT;
SELECT 'rows', count(*), sum(k) FROM t;
CREATE INDEX t_k ON t(k, v);
SELECT 'indexed', count(DISTINCT k) FROM t;
UPDATE t SET v = v || '-' || k WHERE id % 3 = 0;
SELECT 'joined', count(*), sum(length(a.v)) FROM t a JOIN t b ON a.k = b.k AND a.id < b.id;
DELETE FROM t WHERE k % 5 = 0;
SELECT 'left', count(*), max(v), min(v), total(k) FROM t;
SELECT 'windows', sum(r) FROM (SELECT row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM t);
