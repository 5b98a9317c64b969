create or replace function refuse_change() returns trigger
language plpgsql set search_path from current
as $$
begin
    raise exception '% of table % is refused: it is append-only', lower(tg_op), tg_table_name
        using errcode = 'PW005',
              detail = 'The ledger and the events it rests on are an audit trail.',
              hint = 'To undo a posted payment call void_payment(); to empty a test database, migrate down and up.';
end
$$;
comment on function refuse_change() is 'Trigger of the append-only tables: no UPDATE, DELETE or TRUNCATE, by nobody.';
revoke all on function refuse_change from public;
