SELECT to_char(to_timestamp(floor(extract(epoch FROM time) / 10) * 10), 'HH24:MI:SS') AS at, count(*) AS values,
       round(avg(value)::numeric, 2) AS mean_temperature
FROM derived_changes WHERE metric = 'temperature' GROUP BY 1 ORDER BY 1 DESC LIMIT 6;
