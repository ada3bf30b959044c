SELECT metric, count(*) AS values, count(DISTINCT device) AS devices, min(value), round(avg(value)::numeric, 2) AS mean, max(value)
FROM derived_changes GROUP BY metric ORDER BY metric;
