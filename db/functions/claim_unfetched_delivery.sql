create or replace function claim_unfetched_delivery(
    p_connection text,
    out letter_id bigint, out body bytea, out content_type text
)
language plpgsql security definer set search_path from current
as $$
begin
    with claimed as (
        update dead_letters d set attempts = d.attempts + 1
        where d.id = (
            select l.id from dead_letters l
            where l.reason = 'not_fetched' and l.resolution is null and l.connection = p_connection
              and l.attempts < 16 and l.died_at + interval '5 s' * 2 ^ l.attempts <= now()
            order by l.id limit 1 for update skip locked)
        returning d.id, d.delivery_id
    )
    select c.id, b.body, b.content_type into letter_id, body, content_type
    from claimed c join deliveries b on b.id = c.delivery_id;
end
$$;
comment on function claim_unfetched_delivery(text) is
    'The oldest body of a connection for which the provider''s API is to be asked again: 5 s, 10 s, 20 s and so on after it came, the last time after 45 hours; later a person rereads it. Counts the attempt; no row is due: nulls.';
revoke all on function claim_unfetched_delivery from public;
select grant_to('server', 'execute on function claim_unfetched_delivery');
