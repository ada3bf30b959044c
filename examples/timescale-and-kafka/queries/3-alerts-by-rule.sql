SELECT rule, severity, count(*) AS alerts, count(*) FILTER (WHERE state = 'active') AS active
FROM alerts GROUP BY rule, severity ORDER BY alerts DESC;
