SELECT d.site, r.device, max(r.value) AS hottest FROM derived_changes r JOIN devices d ON d.id = r.device
WHERE r.metric = 'temperature' GROUP BY d.site, r.device ORDER BY hottest DESC LIMIT 5;
