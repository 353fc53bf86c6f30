class NoTables:
    def allow_migrate(self, db, app_label, **hints):
        return False if app_label == "celery_postgres" else None
