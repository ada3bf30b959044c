SELECT a.rule, count(*) AS resolved, round(extract(epoch FROM avg(t.at - a.raised_at))::numeric, 2) AS mean_seconds
FROM alerts a JOIN alert_transitions t ON t.alert = a.id AND t.kind = 'resolved' GROUP BY a.rule ORDER BY a.rule;
