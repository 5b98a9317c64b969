create or replace function report_listener(p_name text, p_poll_interval interval, p_watching boolean) returns void
language plpgsql security definer set search_path from current
as $$
begin
    insert into listeners as l (name, poll_interval, watching) values (p_name, p_poll_interval, p_watching)
    on conflict (name) do update
    set seen_at = now(), poll_interval = excluded.poll_interval, watching = excluded.watching,
        started_at = case when l.seen_at < now() - 3 * l.poll_interval then now() else l.started_at end;
    delete from listeners l where l.seen_at < now() - interval '1 day';
end
$$;
comment on function report_listener(text, interval, boolean) is 'A listener''s sign of life; drops those that gave none for a day.';
revoke all on function report_listener from public;
select grant_to('listener', 'execute on function report_listener');
