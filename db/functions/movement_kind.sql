create or replace function movement_kind(p_kind text) returns text
language sql immutable parallel safe
return coalesce(base_kind(p_kind), 'payment');
comment on function movement_kind(text) is
    'The kind of the movement that an event of this kind is about: what a reversal undoes, the payment of a refund or chargeback.';
revoke all on function movement_kind from public;
